// In a notebook: a frame with the page, apart from the notebook's own; what it asks goes to the kernel.
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = "circuits explore";
  frame.sandbox = "allow-scripts allow-downloads allow-popups";
  frame.style.cssText = `width:100%;height:${model.get("height")}px;border:0`;
  frame.srcdoc = model.get("html");
  const ask = (event) => {
    if (event.source === frame.contentWindow && event.data?.circuits) model.send(event.data);
  };
  const tell = (said) => frame.contentWindow?.postMessage(said, "*");
  addEventListener("message", ask);
  model.on("msg:custom", tell);
  el.append(frame);
  return () => {
    removeEventListener("message", ask);
    model.off("msg:custom", tell);
  };
}
export default { render };
