// The mammography mode: OHIF's segmentation mode with our panel, our way of hanging, and tools that mammograms need.

import { commands } from './actions.js';
import { hideFalseMarkers, hotkeys, labels, setToolbar, takeCommands } from './appearance.js';
import { ohif } from './context.js';
import { MODALITIES, fourViews, oneView } from './hanging.js';
import { followSizes } from './rehang.js';
import * as study from './study.js';

const PANEL_ENTRY = 'mammo.panelModule.panel';

let endings = [];

async function modeFactory({ loadModules, modeConfiguration }) {
  const [segmentation] = await loadModules(['@ohif/mode-segmentation']);
  const base = await segmentation.modeFactory.call(segmentation, {
    loadModules,
    modeConfiguration: modeConfiguration ?? {},
  });
  return {
    ...base,
    id: 'mammo',
    routeName: 'mammo',
    displayName: 'Mammography',
    hide: false,
    isValidMode({ modalities }) {
      return {
        valid: modalities.split('\\').some(modality => MODALITIES.includes(modality)),
        description: 'Reads and marks mammograms',
      };
    },
    hangingProtocol: [fourViews.id, oneView.id],
    routes: base.routes.map(route => ({ ...route, path: 'mammo', layoutTemplate: layoutOf(route) })),
    onModeEnter(given) {
      base.onModeEnter.call(this, given);
      const { customizationService } = ohif.services;
      customizationService.setCustomizations(labels);
      customizationService.setCustomizations(hotkeys(customizationService.getCustomization('ohif.hotkeyBindings')));
      setToolbar();
      const { mammoReset, mammoUndo, mammoRedo } = commands;
      const taken = takeCommands({ resetViewport: mammoReset, undo: mammoUndo, redo: mammoRedo });
      endings = [hideFalseMarkers(), taken, followSizes()];
      study.enter();
    },
    onModeExit(given) {
      endings.forEach(end => end());
      study.leave();
      base.onModeExit.call(this, given);
    },
  };
}

/** The layout of OHIF's mode with our panel instead of its own, once it is known how the study hangs. */
function layoutOf(route) {
  return async given => {
    await study.open(given.studyInstanceUIDs ?? studiesOfAddress());
    const layout = await route.layoutTemplate.call(route, given);
    return {
      ...layout,
      props: {
        ...layout.props,
        leftPanelClosed: true,
        rightPanels: [PANEL_ENTRY],
        rightPanelClosed: false,
        rightPanelInitialExpandedWidth: 300,
      },
    };
  };
}

const studiesOfAddress = () => new URLSearchParams(window.location.search).getAll('StudyInstanceUIDs');

export default { id: 'mammo', modeFactory, extensionDependencies: {} };
