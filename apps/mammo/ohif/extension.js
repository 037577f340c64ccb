// Our extension of OHIF: the panel, the ways a study hangs, and the commands behind the keys.
// Not here: what these do.

import { commands } from './actions.js';
import { ohif } from './context.js';
import { fourViews, oneView } from './hanging.js';
import { correctMetadata } from './metadata.js';
import { PANEL } from './panel.js';

/** An element as React takes it, without a copy of React of our own. */
const panelElement = () => ({
  $$typeof: Symbol.for('react.element'),
  type: PANEL,
  key: null,
  ref: null,
  props: {},
  _owner: null,
  _store: {},
});

export default {
  id: 'mammo',

  preRegistration({ servicesManager, commandsManager, extensionManager }) {
    Object.assign(ohif, { servicesManager, commandsManager, extensionManager });
    correctMetadata();
  },

  getPanelModule: () => [
    {
      name: 'panel',
      iconName: 'tab-segmentation',
      iconLabel: 'Mammography',
      label: 'Mammography',
      component: panelElement,
    },
  ],

  getHangingProtocolModule: () => [fourViews, oneView].map(protocol => ({ name: protocol.id, protocol })),

  getCommandsModule: () => ({
    definitions: Object.fromEntries(Object.entries(commands).map(([name, commandFn]) => [name, { commandFn }])),
    defaultContext: 'DEFAULT',
  }),
};
