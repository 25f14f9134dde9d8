//! What adapters are like, and how like each other.
