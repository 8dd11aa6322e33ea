//! The message bus inside one process.
