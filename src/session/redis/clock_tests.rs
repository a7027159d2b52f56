//! This machine's clock beside that of a real Redis.

use super::RedisStore;
use super::server::Server;
use crate::clock::{Clock as _, ManualClock, SystemClock};
use crate::metrics::Metrics;
use crate::session::family::RotationPolicy;
use crate::session::skew;
use crate::session::store::SessionStore;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn a_clock_that_differs_from_redis_is_told_as_a_metric() {
    let server = Server::start();
    let store: Arc<dyn SessionStore> =
        Arc::new(RedisStore::connect_lazily(&server.settings(), RotationPolicy::default()).unwrap());
    for (ours, expected) in [
        (SystemClock.now().plus(Duration::from_secs(42)), 30.0..43.0),
        (SystemClock.now().minus(Duration::from_secs(42)), -60.0..-41.0),
    ] {
        let (metrics, clock) = (Metrics::new().unwrap(), Arc::new(ManualClock::at(ours)));
        let told = || {
            let text = String::from_utf8(metrics.render().unwrap()).unwrap();
            let line =
                text.lines().find_map(|line| line.strip_prefix("portcullis_store_clock_difference_seconds "));
            line.unwrap().parse::<f64>().unwrap()
        };
        let until_told = async {
            while told() == 0.0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let watch = skew::watch(Arc::clone(&store), clock, metrics.clone());
        tokio::select! {
            never = watch => match never {},
            waited = tokio::time::timeout(Duration::from_secs(10), until_told) => waited.unwrap(),
        }
        assert!(expected.contains(&told()), "{}", told());
    }
}
