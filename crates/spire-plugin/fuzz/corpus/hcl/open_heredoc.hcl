host = <<EOF
h
EOF