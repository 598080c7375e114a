// SPDX-License-Identifier: Apache-2.0
//! Loads a plugin as SPIRE does.
