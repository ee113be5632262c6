//! The transport protocols: what starts a connection, its states and how long each may last.
