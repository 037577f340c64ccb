"""Parts of the MONAI Label app, one module a concept; nothing outside the app imports them."""
