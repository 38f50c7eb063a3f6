//! A typed builder of PTX.
