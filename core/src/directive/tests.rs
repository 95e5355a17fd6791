//! Steps towards plans.
