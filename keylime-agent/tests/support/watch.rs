// SPDX-License-Identifier: Apache-2.0
//! Whether the real verifier stays content with a host while something is done to the host.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use test_support::KeylimeServers;

/// From one look at the verifier's record to the next.
const PAUSE: Duration = Duration::from_millis(100);

/// Set when it is dropped, so that those who go by it end also when a test fails.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does something while the verifier's record of an enrolled host is looked at all the time. It must say at each look that
/// the host passes, and that no quote has been forgotten, and the verifier must not have met an answer that it does not
/// take for a passing fault.
pub(crate) fn watched<T>(servers: &KeylimeServers, id: &str, doing: impl FnOnce() -> T) -> T {
    let log = || std::fs::read_to_string(servers.folder().join("verifier.log")).unwrap();
    let before = log().len();
    let over = AtomicBool::new(false);
    let done = thread::scope(|scope| {
        scope.spawn(|| {
            let mut count = 0;
            while !over.load(Ordering::Relaxed) {
                let record = servers.verifier_agent(id).unwrap().unwrap();
                assert_eq!(record["attestation_status"], "PASS", "{record}");
                let now = record["attestation_count"].as_u64().unwrap();
                assert!(now >= count, "{now} after {count}");
                count = now;
                thread::sleep(PAUSE);
            }
        });
        let _over = Over(&over);
        doing()
    });
    let log = log().split_off(before);
    println!("the verifier has asked again {} times", log.matches(" tries, trying again in ").count());
    for text in ["Unexpected Get Quote", "Unexpected Provide V", "Traceback", "stopping polling"] {
        assert!(!log.contains(text), "{text}: {log}");
    }
    done
}
