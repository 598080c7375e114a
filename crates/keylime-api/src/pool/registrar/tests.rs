// SPDX-License-Identifier: Apache-2.0
//! One row per rule
