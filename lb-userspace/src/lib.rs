//! The appliance: every role of `gatehouse` in one library, its composition in `app`.
