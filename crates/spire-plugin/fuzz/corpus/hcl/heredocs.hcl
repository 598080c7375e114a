doc = <<-EOF
  line
    two
  EOF
x = <<E
end
E
y = false
