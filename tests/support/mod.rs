//! What tests share. `cluster`: a control plane that somebody else has started.
#![allow(dead_code)]

pub mod cluster;
