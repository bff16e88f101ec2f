package artifact

const nonblocking = 0
