//! What the tests stand on: the real gateway as a child process, raw clients, and its neighbours.

pub(crate) mod balancer;
pub(crate) mod client;
pub(crate) mod config;
pub(crate) mod folder;
pub(crate) mod frames;
pub(crate) mod gateway;
pub(crate) mod http2;
pub(crate) mod http2_client;
pub(crate) mod http2_upstream;
pub(crate) mod http_server;
pub(crate) mod issuer;
pub(crate) mod keys;
pub(crate) mod load;
pub(crate) mod measure;
pub(crate) mod person;
pub(crate) mod ports;
pub(crate) mod redis;
pub(crate) mod redis_group;
pub(crate) mod relay;
pub(crate) mod script;
pub(crate) mod site;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod tunnel;
pub(crate) mod upstream;
pub(crate) mod wait;

pub(crate) use client::{Connection, Request, Response, delete, get, post, request};
pub(crate) use config::{Config, Sessions};
pub(crate) use folder::Folder;
pub(crate) use gateway::Gateway;
pub(crate) use http_server::Reply;
pub(crate) use issuer::Issuer;
pub(crate) use keys::Key;
pub(crate) use token::Token;
pub(crate) use upstream::Upstream;
pub(crate) use wait::{eventually, wait_for};
