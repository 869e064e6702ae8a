-- Calls for wrk: a random key of 100, a random customer of 10,000, three tags.
-- Arguments after `--`: path, file of keys (a line each), model, then headers as "name: value";
-- {key} in a header's value becomes the key.

local path, model, keys, headers = "", "", {}, {}
local text = string.rep("hello world ", 60)

function init(arguments)
  path, model = arguments[1], arguments[3]
  for line in io.lines(arguments[2]) do keys[#keys + 1] = line end
  for number = 4, #arguments do
    local name, value = arguments[number]:match("^(.-): (.*)$")
    headers[name] = value
  end
  math.randomseed(os.time())
end

function request()
  local customer = math.random(10000)
  local own = {}
  for name, value in pairs(headers) do own[name] = value:gsub("{key}", keys[math.random(#keys)]) end
  return wrk.format("POST", path, own, string.format(
    '{"model":"%s","user":"customer-%d","messages":[{"role":"user","content":"%s"}],' ..
    '"metadata":{"tags":["project:%d","team:%d","env:prod"]}}',
    model, customer, text, customer % 20, customer % 5))
end
