// In a notebook: a frame with the page, apart from the notebook's own; what it asks goes to the kernel.
const PATIENCE = 10_000; // milliseconds until a kernel has heard what was asked
const AWAY = "The notebook's kernel does not answer. It is busy, then ask again later; or it was started anew, then run this cell again.";

function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = "circuits explore";
  frame.sandbox = "allow-scripts allow-downloads allow-popups";
  frame.style.cssText = `width:100%;height:${model.get("height")}px;border:0`;
  frame.srcdoc = model.get("html");
  const unheard = new Map(); // id -> timer
  const tell = (said) => frame.contentWindow?.postMessage(said, "*");
  const ask = ({ source, data }) => {
    if (source !== frame.contentWindow || !data?.circuits) return;
    if (data.circuits === "ask") {
      unheard.set(data.id, setTimeout(() => tell({ circuits: "error", id: data.id, error: AWAY }), PATIENCE));
    }
    model.send(data);
  };
  const hear = (said) => {
    clearTimeout(unheard.get(said.id));
    unheard.delete(said.id);
    if (said.circuits !== "heard") tell(said);
  };
  addEventListener("message", ask);
  model.on("msg:custom", hear);
  el.append(frame);
  return () => {
    removeEventListener("message", ask);
    model.off("msg:custom", hear);
    unheard.forEach(clearTimeout);
  };
}
export default { render };
