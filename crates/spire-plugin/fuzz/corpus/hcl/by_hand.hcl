keylime_agent_host = "127.0.0.1" // host
keylime_agent_port = "9002"
"quoted" = 0x1F, list = [1, "two", true, {a = 1},]
block "label" { nested { deep = -1.5e-3 } }
