"""Ask a model by pointing: a page in the browser whose every number comes from the library."""
