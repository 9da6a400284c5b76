[
  inputs: ["{mix,.formatter}.exs", "{bench,lib,native,script,test}/**/*.{ex,exs}"]
]
