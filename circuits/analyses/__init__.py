"""The questions: one file a question, one public function in it, which returns a `Result`."""
