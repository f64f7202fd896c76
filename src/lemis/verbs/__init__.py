"""One file per command, one public function of the same name, callable from Python."""
