//! The one test binary: every test of a real interface is a module of it.
