// Keeps a record of which methods the suite calls, and how the calls end, for official_test.go to find methods that no
// test has called. The tests call the client as it is: its methods are wrapped, and whatever wraps them passes all on.
//
// A process of tests leaves its part of the record in the directory OFFICIAL_CALLS when it ends. It names every method of
// every client, called or not.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

const calls = {};

const entry = (service, method) => (calls[service] ??= {})[method] ??= { succeeded: 0, refused: {} };

// A class of clients whose calls are recorded.
export const recorded = Client => {
  const { serviceName } = new Client({ rootUrl: 'https://example.com', credentials: {} })._options;
  for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(Client.prototype))) {
    if (!value.entryReference) {
      continue;
    }
    const count = entry(serviceName, name);
    Client.prototype[name] = new Proxy(value, {
      apply: async (method, client, args) => {
        try {
          const answer = await Reflect.apply(method, client, args);
          count.succeeded++;
          return answer;
        } catch (err) {
          if (err.statusCode) {
            count.refused[err.statusCode] = (count.refused[err.statusCode] ?? 0) + 1;
          }
          throw err;
        }
      },
    });
  }
  return Client;
};

if (process.env.OFFICIAL_CALLS) {
  process.on('exit', () => writeFileSync(join(process.env.OFFICIAL_CALLS, `javascript-${process.pid}.json`), JSON.stringify(calls)));
}
