"host" = "h"

"port" = 

"n" = {
  "x" = 1.50
}

"use_tls" = true