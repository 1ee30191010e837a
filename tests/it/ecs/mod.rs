//! ECS on a real machine: what the process driver does with tasks.

/// A namespace that stands for an instance, and a driver for it.
mod world;
/// Tasks started, watched, stopped and found again.
mod driver;
/// A service of the whole appliance, changed under load.
mod service;
