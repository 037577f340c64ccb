// OHIF's configuration: our extension and mode, and the DICOMweb of the server that this file comes from.
// Nothing here is secret, and nothing is loaded from another place.

window.config = {
  name: 'mammography',
  routerBasename: '/ohif/',
  extensions: ['/mammo/extension.js'],
  modes: ['/mammo/mode.js'],
  showStudyList: true,
  maxNumberOfWebWorkers: 3,
  showWarningMessageForCrossOrigin: false,
  showCPUFallbackMessage: false,
  showLoadingIndicator: true,
  strictZSpacingForVolumeViewport: true,
  groupEnabledModesFirst: true,
  maxNumRequests: { interaction: 100, thumbnail: 5, prefetch: 10 },
  showErrorDetails: 'always',
  // The panel says it; OHIF's bar would cover the images.
  investigationalUseDialog: { option: 'never' },
  defaultDataSourceName: 'dicomweb',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomweb',
      configuration: {
        friendlyName: 'Mammograms of this server',
        name: 'mammo',
        wadoUriRoot: `${window.location.origin}/dicomweb`,
        qidoRoot: `${window.location.origin}/dicomweb`,
        wadoRoot: `${window.location.origin}/dicomweb`,
        qidoSupportsIncludeField: false,
        supportsReject: false,
        imageRendering: 'wadors',
        thumbnailRendering: 'wadors',
        enableStudyLazyLoad: true,
        supportsFuzzyMatching: false,
        supportsWildcard: true,
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
};
