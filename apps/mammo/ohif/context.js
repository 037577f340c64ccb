// OHIF as our modules reach it: its managers, kept when it registers the extension. Not here: anything of ours.

/** OHIF's managers and services. Filled once, before any mode is made. */
export const ohif = {
  servicesManager: null,
  commandsManager: null,
  extensionManager: null,

  /** All of OHIF's services by name. */
  get services() {
    return this.servicesManager.services;
  },

  /** The cornerstone libraries that OHIF itself uses: `{ cornerstone, cornerstoneTools }`. */
  get libraries() {
    const entry = '@ohif/extension-cornerstone.utilityModule.common';
    return this.extensionManager.getModuleEntry(entry).exports.getCornerstoneLibraries();
  },

  /** Where OHIF gets its images. */
  get dataSource() {
    return this.extensionManager.getActiveDataSource()[0];
  },

  /** Run one of OHIF's commands. */
  run(name, options) {
    return this.commandsManager.runCommand(name, options);
  },
};

/** The tool group of all our viewports. */
export const TOOL_GROUP = 'default';
