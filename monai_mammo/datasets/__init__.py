"""Data sets: what is on disk becomes a MONAI datalist; one module a data set."""
