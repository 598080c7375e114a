// SPDX-License-Identifier: Apache-2.0
//! Any text is read or refused, and whatever is wrong with it fits one line of a log.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use spire_plugin::{Options, hcl};

fuzz_target!(|text: &str| {
    let problems = match hcl::parse(text) {
        Err(error) => vec![error.to_string()],
        Ok(body) => {
            let mut options = Options::new(body);
            options.string("host", "127.0.0.1");
            options.boolean("use_tls", false);
            options.port("port", 9002);
            options.strings("hosts");
            options.numbers("pcrs", 0..=23);
            options.choice("by", &[("both", 0), ("local", 1)], 0);
            options.choices("groups", &[("agent_id", 0), ("pcr", 1)]);
            options.exclude("host", "hosts", "set one of them");
            options.duration("interval", Duration::from_secs(1), Duration::ZERO..=Duration::MAX);
            options.finish().into_texts()
        }
    };
    for problem in problems {
        assert!(problem.len() < 2000 && !problem.contains(char::is_control), "{problem:?}");
    }
});
