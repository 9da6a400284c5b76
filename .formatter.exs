[
  inputs: ["{mix,.formatter}.exs", "{bench,config,lib,native,script,test}/**/*.{ex,exs}"]
]
