"""The command line: one file a group of commands, each a call of a public function."""
