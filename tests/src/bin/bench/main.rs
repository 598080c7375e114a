// SPDX-License-Identifier: Apache-2.0
//! Bench.
fn main() {}
