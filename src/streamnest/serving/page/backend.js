// What computes the results: the server of this page.
import { ServerConnection } from "./connection.js";

export const backend = {
  connect: (receive, lost) => new ServerConnection(receive, lost),

  // Returns the fields of `ready`, before a stream is opened.
  async model(token) {
    const answer = await fetch("model", { headers: token ? { Authorization: `Bearer ${token}` } : {} });
    return answer.ok ? answer.json() : null;
  },
};
