// SPDX-License-Identifier: Apache-2.0
//! Dropping the last handle ends the thread. Alone in its program, so that the thread can be recognized.

mod support;

use anyhow::{Result, ensure};
use std::fs;
use std::time::{Duration, Instant};
use support::{PATIENCE, ensure_empty, plain_swtpm, settings, start};

fn tpm_threads() -> Result<usize> {
    let mut found = 0;
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that ends while being looked at is not there.
        let name = fs::read_to_string(task?.path().join("comm")).unwrap_or_default();
        found += usize::from(name.trim() == "tpm");
    }
    Ok(found)
}

#[tokio::test]
async fn dropping_the_last_handle_leaves_nothing() -> Result<()> {
    let Some(swtpm) = plain_swtpm().await? else { return Ok(()) };
    let (tpm, _, _) = start(settings(&swtpm), None).await?;
    let clone = tpm.clone();
    drop(tpm);
    assert!(clone.vendor_is_software().await?);
    assert_eq!(tpm_threads()?, 1);
    drop(clone);
    let begin = Instant::now();
    while tpm_threads()? > 0 {
        ensure!(begin.elapsed() < PATIENCE, "the thread does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ensure_empty(&swtpm)
}
