//! What tests share. `cluster`: a control plane that somebody else has started. `helm`:
//! the chart as helm renders it. `follow`: a watch for tests.
#![allow(dead_code)]

pub mod cluster;
pub mod follow;
pub mod helm;
pub mod operator;
pub mod proxy;
