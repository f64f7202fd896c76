"""Networks, one per file: ``Settings`` and ``Backbone``. The folder is the list."""
