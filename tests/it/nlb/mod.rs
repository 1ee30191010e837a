//! Network load balancers as users have them: made and changed by boto3, used over real sockets.

/// A VPC of both families with machines in two zones.
mod world;
/// Targets that are deregistered.
mod deregistration;
/// Targets that are unhealthy, and groups of which too few are healthy.
mod health;
/// Zones.
mod zones;
/// Both families, every protocol.
mod protocols;
/// Roles that are killed, and an appliance that starts anew over what another left.
mod survival;
