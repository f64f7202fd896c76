"""The files of a work folder between verbs: one typed model each, with its one reader and its one writer."""
