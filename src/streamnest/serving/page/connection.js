// Connection of one stream to the server, in the protocol of docs/SERVING.md.
export class ServerConnection {
  // `receive` gets each message; `lost` is called if the connection ends before `final` or `error`.
  constructor(receive, lost) {
    Object.assign(this, { receive, lost, source: "The server reports", opened: false, over: false });
  }

  open(hello) {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.socket = new WebSocket(`${scheme}://${location.host}/stream`);
    this.socket.onopen = () => { this.opened = true; this.socket.send(JSON.stringify(hello)); };
    this.socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.type === "final" || message.type === "error") this.over = true;
      this.receive(message);
    };
    this.socket.onclose = () => { if (!this.over) { this.over = true; this.lost(this.opened); } };
  }

  get ready() { return !this.over && this.socket.readyState === WebSocket.OPEN; }

  get buffered() { return this.socket.bufferedAmount; }

  send(buffer) { if (this.ready) this.socket.send(buffer); }

  end() { this.send(JSON.stringify({ end: true })); }

  close() { this.over = true; this.socket.close(1000); } // the server may forget the stream
}
