//! Workers, listeners, connections, dialling and the relay, and the process that holds them together.
//!
//! The path of a connection: `worker` (accept) → `steps::hear` → `steps::judge` → `steps::reach` (`resolver`, `dial`) →
//! `steps::carry` (`relay`) or `steps::refuse` → `flow` (the record, written on drop).
//! The path of a question to a DNS listener: `dns` → `resolver` → `dns`.
//! The path of a policy change: `gateway::on_message` → `install` → `swap` → `worker::read_mail` → `steps::judge`.
#![forbid(unsafe_code)]

mod budget;
mod cluster;
mod context;
mod control;
mod dial;
mod dns;
mod families;
mod flow;
mod front;
mod gateway;
mod installed;
mod limits;
mod log;
mod logins;
mod message;
mod options;
mod pool;
mod refuse;
mod relay;
mod report;
mod resolver;
mod running;
mod shape;
mod silence;
mod steps;
mod wheel;
mod worker;

pub use gateway::{EXIT_CONFIG, EXIT_SOFTWARE, run};
