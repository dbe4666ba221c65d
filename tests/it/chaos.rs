//! A bad network between sender and receiver: the result is right or nothing is published.
