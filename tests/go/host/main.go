// SPDX-License-Identifier: Apache-2.0

// Program host loads the key-value plugin whose path is its only argument
// with hashicorp's own library and puts it through its paces. It prints one
// line for each thing proven; the first thing that is not ends it with
// status 1.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/spire-keylime/spire-keylime/tests/go/kv"
)

// limit of each call.
const limit = 30 * time.Second

// store is what the host gets when it dispenses the plugin.
type store struct {
	kv.KvClient
	conn   *grpc.ClientConn
	broker *plugin.GRPCBroker
}

// kvPlugin is the host's half of the plugin.
type kvPlugin struct {
	plugin.NetRPCUnsupportedPlugin
}

func (kvPlugin) GRPCServer(*plugin.GRPCBroker, *grpc.Server) error {
	return errors.New("this is the host")
}

func (kvPlugin) GRPCClient(_ context.Context, broker *plugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return &store{kv.NewKvClient(conn), conn, broker}, nil
}

// audit is the service that the plugin calls back.
type audit struct {
	kv.UnimplementedAuditServer
	mu   sync.Mutex
	keys []string
}

func (a *audit) Record(_ context.Context, request *kv.RecordRequest) (*kv.RecordResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = append(a.keys, request.Key)
	return &kv.RecordResponse{Count: uint64(len(a.keys))}, nil
}

// buffer collects the host's log, which go-plugin writes from many places.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// client of the plugin at path, its log in the buffer.
func client(path string, log io.Writer) (*plugin.ClientConfig, error) {
	file, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(file)
	return &plugin.ClientConfig{
		HandshakeConfig:  kv.Handshake,
		Plugins:          plugin.PluginSet{"kv": kvPlugin{}},
		Cmd:              exec.Command(path),
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		SecureConfig:     &plugin.SecureConfig{Checksum: sum[:], Hash: sha256.New()},
		StartTimeout:     limit,
		Logger:           hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: log}),
	}, nil
}

func main() {
	if len(os.Args) != 2 {
		fail("usage: host PLUGIN")
	}
	works(os.Args[1])
	refuses(os.Args[1])
}

// works: what a host does with a plugin, from start to end.
func works(path string) {
	var log buffer
	config, err := client(path, &log)
	check("read the plugin", err)
	host := plugin.NewClient(config)
	defer host.Kill()
	protocol, err := host.Client()
	check("start the plugin", err)
	socket := host.ReattachConfig().Addr.String()
	proven("started by checksum, protocol %s version %d", host.Protocol(), host.NegotiatedVersion())

	check("ping", protocol.Ping())
	raw, err := protocol.Dispense("kv")
	check("dispense", err)
	store := raw.(*store)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	health := grpc_health_v1.NewHealthClient(store.conn)
	_, err = health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "other"})
	expect("health of an unknown service", status.Code(err), codes.NotFound)
	proven("healthy")

	_, err = store.Get(ctx, &kv.GetRequest{Key: "one"})
	expect("get of a missing key", status.Convert(err).Message(), "no such key")
	watch, err := store.Watch(ctx, &kv.WatchRequest{Key: "one"})
	check("watch", err)
	_, err = store.Put(ctx, &kv.PutRequest{Key: "one", Value: []byte("first")})
	check("put", err)
	got, err := store.Get(ctx, &kv.GetRequest{Key: "one"})
	check("get", err)
	expect("get", string(got.Value), "first")
	proven("unary calls")

	// The watch may have begun after the first put.
	_, err = store.Put(ctx, &kv.PutRequest{Key: "one", Value: []byte("second")})
	check("put", err)
	for value := "first"; value != "second"; {
		change, err := watch.Recv()
		check("receive", err)
		value = string(change.Value)
	}
	proven("stream")

	records := &audit{}
	go store.broker.AcceptAndServe(kv.AuditService, func(options []grpc.ServerOption) *grpc.Server {
		server := grpc.NewServer(options...)
		kv.RegisterAuditServer(server, records)
		return server
	})
	for _, key := range []string{"two", "three"} {
		_, err = store.Put(ctx, &kv.PutRequest{Key: key, Audit: true})
		check("put through the broker", err)
	}
	expect("records", fmt.Sprint(records.keys), "[two three]")
	proven("broker")

	until("the plugin's log", func() bool {
		return strings.Contains(log.String(), "[INFO]  kv_plugin: the host keeps a record:") &&
			strings.Contains(log.String(), "count=2")
	})
	proven("log")

	// The watch is still open.
	start := time.Now()
	host.Kill()
	took := time.Since(start)
	expect("exited", host.Exited(), true)
	expect("killed", strings.Contains(log.String(), "failed to exit gracefully"), false)
	until("the exit is logged", func() bool { return strings.Contains(log.String(), "plugin process exited") })
	expect("exit error", strings.Contains(log.String(), "[ERROR]"), false)
	if took > 2*time.Second {
		fail("the end took %s", took)
	}
	_, err = os.Stat(socket)
	expect("socket is gone", errors.Is(err, os.ErrNotExist), true)
	proven("ended by itself, %s gone", filepath.Base(socket)[:len("plugin")])
}

// refuses: hosts that want what the plugin does not have are told so.
func refuses(path string) {
	var log buffer
	config, err := client(path, &log)
	check("read the plugin", err)
	config.GRPCBrokerMultiplex = true
	_, err = plugin.NewClient(config).Start()
	expect("multiplexing", errors.Is(err, plugin.ErrGRPCBrokerMuxNotSupported), true)
	proven("multiplexing is refused")

	config, err = client(path, &log)
	check("read the plugin", err)
	config.AutoMTLS = true
	_, err = plugin.NewClient(config).Start()
	expect("AutoMTLS", err != nil, true)
	until("the reason is logged", func() bool {
		return strings.Contains(log.String(), "[ERROR] kv_plugin: the plugin cannot start:") &&
			strings.Contains(log.String(), "the host asks for AutoMTLS")
	})
	proven("AutoMTLS is refused")

	config, err = client(path, &log)
	check("read the plugin", err)
	config.ProtocolVersion = 2
	_, err = plugin.NewClient(config).Start()
	if err == nil || !strings.Contains(err.Error(), "incompatible API version with plugin") {
		fail("version 2: %v", err)
	}
	proven("another version is refused")
}

func proven(format string, args ...any) {
	fmt.Printf("proven: "+format+"\n", args...)
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "FAILED: "+format+"\n", args...)
	plugin.CleanupClients()
	os.Exit(1)
}

func check(what string, err error) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

func expect[T comparable](what string, got, want T) {
	if got != want {
		fail("%s: got %v, want %v", what, got, want)
	}
}

func until(what string, condition func() bool) {
	for start := time.Now(); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > limit {
			fail("never happened: %s", what)
		}
	}
}
