// SPDX-License-Identifier: Apache-2.0

// Program plugin is a key-value store served with hashicorp's own library,
// for hosts written in Rust.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spire-keylime/spire-keylime/tests/go/kv"
)

// store is the plugin's service.
type store struct {
	kv.UnimplementedKvServer
	log    hclog.Logger
	broker *plugin.GRPCBroker
	audit  func() (*grpc.ClientConn, error)
	mu     sync.Mutex
	values map[string][]byte
}

func (s *store) Put(ctx context.Context, request *kv.PutRequest) (*kv.PutResponse, error) {
	if request.Audit {
		conn, err := s.audit()
		if err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		answer, err := kv.NewAuditClient(conn).Record(ctx, &kv.RecordRequest{Key: request.Key})
		if err != nil {
			return nil, err
		}
		s.log.Info("the host keeps a record", "key", request.Key, "count", answer.Count)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[request.Key] = request.Value
	return &kv.PutResponse{}, nil
}

func (s *store) Get(_ context.Context, request *kv.GetRequest) (*kv.GetResponse, error) {
	switch request.Key {
	case "print":
		fmt.Println("printed by Go")
	case "foreign":
		// go-plugin redirects os.Stderr; the descriptor still leads to the host.
		fmt.Fprintln(os.NewFile(2, "stderr"), "foreign text")
	case "offer":
		go s.broker.AcceptAndServe(kv.OfferedService, func(options []grpc.ServerOption) *grpc.Server {
			server := grpc.NewServer(options...)
			kv.RegisterKvServer(server, s)
			return server
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[request.Key]
	if !ok {
		return nil, status.Error(codes.NotFound, "no such key")
	}
	return &kv.GetResponse{Value: value}, nil
}

// kvPlugin is the plugin's half.
type kvPlugin struct {
	plugin.NetRPCUnsupportedPlugin
	log hclog.Logger
}

func (p kvPlugin) GRPCServer(broker *plugin.GRPCBroker, server *grpc.Server) error {
	kv.RegisterKvServer(server, &store{
		log:    p.log,
		broker: broker,
		// In Go an announcement serves a single dial, and only for 5 s.
		audit: sync.OnceValues(func() (*grpc.ClientConn, error) {
			return broker.Dial(kv.AuditService)
		}),
		values: map[string][]byte{},
	})
	return nil
}

func (kvPlugin) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("this is the plugin")
}

func main() {
	log := hclog.New(&hclog.LoggerOptions{Name: "gokv", Level: hclog.Trace, Output: os.Stderr, JSONFormat: true})
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: kv.Handshake,
		Plugins:         plugin.PluginSet{"kv": kvPlugin{log: log}},
		GRPCServer:      plugin.DefaultGRPCServer,
		Logger:          log,
	})
}
