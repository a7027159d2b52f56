//! The endpoints as a whole: a real store in a folder, a real directory, real tokens; only time is ours.

mod breakable;
mod login;
mod logout;
mod refresh;
mod rig;
mod surface;
