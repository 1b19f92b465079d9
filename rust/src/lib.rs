//! The Python binding: the only crate that knows Python.
