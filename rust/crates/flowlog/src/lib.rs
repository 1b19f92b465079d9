//! The record of a finished flow, the ring that carries it and the table of live flows.
#![forbid(unsafe_code)]
