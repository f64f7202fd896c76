"""The layouts of folders that we recognise, one file each; ``recognised.py`` lists them."""
