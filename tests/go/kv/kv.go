// SPDX-License-Identifier: Apache-2.0

// Package kv holds what the Go host and the Go plugin share: the generated
// code of the Rust crate's example, and the handshake.
package kv

import "github.com/hashicorp/go-plugin"

//go:generate protoc -I ../../../crates/go-plugin/examples/kv --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative kv.proto

// Numbers of the brokered services.
const (
	AuditService   = 1 // offered by the host
	OfferedService = 7 // offered by the Go plugin
)

// Handshake is that of the Rust example.
var Handshake = plugin.HandshakeConfig{
	ProtocolVersion:  1,
	MagicCookieKey:   "KV_PLUGIN",
	MagicCookieValue: "0d6ce1f6-kv",
}
