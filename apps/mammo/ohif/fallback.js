// Follows app-config.js where only MONAI Label's older OHIF is there, in which our mode does not load: OHIF's own
// modes, and in place of its logo how to get ours.

Object.assign(window.config, {
  extensions: [],
  modes: [],
  whiteLabeling: {
    createLogoComponentFn: React =>
      React.createElement(
        'span',
        { role: 'alert', style: { color: '#ffb020', fontSize: '12px', display: 'block', width: '380px', whiteSpace: 'normal' } },
        'Older OHIF, without the mammography mode: run “python ohif/fetch.py” in the folder of the app, with the server’s Python, and restart the server'
      ),
  },
});
