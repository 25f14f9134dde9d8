//! The contract itself: toy methods of every kind, the erased module, injection, third-party modules.

mod composition;
mod erased;
mod injection;
mod kinds;
mod liars;
mod third_party;
mod toys;
