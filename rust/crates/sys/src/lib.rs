//! The unsafe ground: shared memory, descriptor passing, socket options.
